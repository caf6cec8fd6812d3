cimport cython


@cython.locals(trees=Py_ssize_t, nodes=Py_ssize_t, row=Py_ssize_t, tree=Py_ssize_t, node=Py_ssize_t, total=double)
cdef object _sums(
    const double[:, ::1] x, const long long[:, ::1] split, const double[:, ::1] above, const double[:, ::1] leaf, double bias,
    double[::1] sums
)
