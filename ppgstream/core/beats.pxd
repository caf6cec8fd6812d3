cimport cython


@cython.locals(m=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, foot=Py_ssize_t, least=double, usual=double, total=double, is_peak=bint)
cdef object _detect_row(
    const double[::1] x, Py_ssize_t wide, Py_ssize_t narrow, double[::1] slopes, unsigned char[::1] upstrokes,
    double[::1] rises, unsigned char[::1] peaks, unsigned char[::1] agreed, unsigned char[::1] alone, unsigned char[::1] low
)

@cython.locals(m=Py_ssize_t, k=Py_ssize_t, value=double)
cdef bint _is_highest(const double[::1] x, Py_ssize_t at, Py_ssize_t scale)

@cython.locals(first=double, second=double, third=double, fourth=double, value=double, k=Py_ssize_t)
cdef double _usual(const double[::1] values, const unsigned char[::1] which)
