cimport cython


cdef class Segment:
    cdef public object calibration, geometry, plan, polarity
    cdef public object confidence, flags, state, total, weight, x
    cdef public object _base, _done, _done_before, next_window, released, start, stop  # of any size: a sensor's index times a ratio
    cdef public Py_ssize_t _beyond, number
    cdef public int _first_flags
    cdef public bint _plain, closed

    @cython.locals(at=Py_ssize_t, n=Py_ssize_t)
    cpdef object append(self, x, state=*, int flags=*)

    @cython.locals(
        to_total="double[::1]", to_weight="double[::1]", to_confidence="double[::1]", weights="const double[::1]",
        values="const double[::1]", own="const double[::1]", a=Py_ssize_t, k=Py_ssize_t, agreement=double
    )
    cpdef object add(self, start, y, flags, confidence=*)

    @cython.locals(n=Py_ssize_t, at=Py_ssize_t, short=bint, some_bare=bint, plain=bint)
    cpdef object release(self, by_row=*)

    @cython.locals(
        weight="const double[::1]", total="const double[::1]", found="double[::1]", first=Py_ssize_t, start=Py_ssize_t,
        stop=Py_ssize_t, end=Py_ssize_t, last=Py_ssize_t, done=Py_ssize_t, hop=Py_ssize_t, beyond=Py_ssize_t, k=Py_ssize_t,
        mean=double
    )
    cdef object _plainly(self, calibration, settled, confidence)

    @cython.locals(at=Py_ssize_t, size=Py_ssize_t, used=Py_ssize_t, drop=Py_ssize_t)
    cdef Py_ssize_t _room(self, Py_ssize_t n)


@cython.locals(k=Py_ssize_t, n=Py_ssize_t, off=double, mean=double, error=double, power=double, one=double, found=double)
cdef double _agreement(const double[::1] total, const double[::1] weight, Py_ssize_t a, Py_ssize_t b, const double[::1] values)

@cython.locals(k=Py_ssize_t, some=bint)
cdef bint _average(
    const double[::1] total, const double[::1] weight, const double[::1] summed, const double[::1] raw, Py_ssize_t at,
    double[::1] values, double[::1] confidence, unsigned char[::1] bare
)
