cimport cython


@cython.locals(whole="long long", fraction="long long", total=double, k=Py_ssize_t, j=Py_ssize_t)
cdef object _read(
    const double[::1] values, Py_ssize_t at, double level, const double[:, ::1] table, long long num, long long den,
    long long place, double[::1] found
)
