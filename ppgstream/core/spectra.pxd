cimport cython
cimport libc.math as math


@cython.locals(
    m=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, mean=double, slope=double, height=double, largest=double
)
cdef object _level(double[:, ::1] rows, const double[::1] t, double power, double rounding)

@cython.locals(m=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, height=double)
cdef object _taper(const double[:, ::1] rows, const double[::1] window, double[:, ::1] tapered)

@cython.locals(row=size_t, k=size_t)
cdef object _powers(const double[:, ::1] transform, double[:, ::1] powers)

@cython.locals(row=Py_ssize_t, k=Py_ssize_t, at=Py_ssize_t, over=double, part=double)
cdef object _at_rates(
    const double[:, ::1] powers, const long long[::1] low, const double[::1] share, double[:, ::1] found, const double[::1] mean
)

@cython.locals(n=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, total=double)
cdef object _relative(double[:, ::1] rates, double[::1] mean)

@cython.locals(m=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, lag=Py_ssize_t, total=double, both=double)
cdef object _normalised(
    const double[:, ::1] same, const double[:, ::1] rows, const long long[::1] lags, double[::1] energy, double[:, ::1] found
)
