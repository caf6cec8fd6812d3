cimport cython


# An unsigned index is not looked at for being negative.
@cython.locals(trees=size_t, nodes=size_t, row=size_t, tree=size_t, node=size_t, total=double)
cdef object _sums(
    const double[:, ::1] x, const long long[:, ::1] split, const double[:, ::1] above, const double[:, ::1] leaf, double bias,
    double[::1] sums
)
