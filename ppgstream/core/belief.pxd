cimport cython


@cython.locals(n=Py_ssize_t, k=Py_ssize_t, below=double, above=double, total=double, whole=double)
cdef object _follow(
    const float[::1] belief, const double[::1] evidence, double near, double jump, double[:, ::1] room, double[::1] found
)
