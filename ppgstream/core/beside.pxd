cimport cython


@cython.locals(
    n=Py_ssize_t, quarter=Py_ssize_t, k=Py_ssize_t, low=double, high=double, total=double, height=double, before=double, after=double
)
cdef bint _flatten(const double[::1] x, const double[::1] hann, const double[::1] at, double[::1] flat)

@cython.locals(n=Py_ssize_t, k=Py_ssize_t)
cdef object _powers(const double[::1] spectrum, double[::1] power, double[::1] strength)

@cython.locals(k=Py_ssize_t, at=Py_ssize_t)
cdef Py_ssize_t _highest(const double[::1] values, Py_ssize_t first, Py_ssize_t stop)

@cython.locals(k=Py_ssize_t, total=double)
cdef double _sum(const double[::1] values, Py_ssize_t first, Py_ssize_t stop)

@cython.locals(n=Py_ssize_t, j=Py_ssize_t, k=Py_ssize_t, mean=double, part=double, slow=double, whole=double)
cdef bint _is_slow(const double[::1] x, const double[:, ::1] basis)

@cython.locals(
    first=Py_ssize_t, last=Py_ssize_t, pulse=Py_ssize_t, line=Py_ssize_t, between=Py_ssize_t, k=Py_ssize_t, highest=double,
    band=double, own=double, place=double
)
cdef double _steady_line(const double[::1] power, const double[::1] strength, double hz)

@cython.locals(first=Py_ssize_t, n=Py_ssize_t, line=Py_ssize_t, below=double)
cdef double _hum(const double[::1] power, const double[::1] strength, double hz)

@cython.locals(a=double, b=double, c=double, bend=double)
cdef double _peak(const double[::1] power, Py_ssize_t k)
