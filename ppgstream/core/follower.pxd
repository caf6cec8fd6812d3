cimport cython


cdef class Follower:
    cdef public double beat, bpm, counted, elapsed_s, since_sure_s, sure_bpm, told
    cdef public object _staging, belief, rows
    cdef public tuple _levels, _newest
    cdef public Py_ssize_t _factor, _filled, _lead, points

    @cython.locals(stepped=bint, at=Py_ssize_t, n=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t)
    cpdef list append(self, index, out, raw, confidence, flags)


@cython.locals(k=Py_ssize_t)
cdef object _stage(
    float[:, ::1] staging, Py_ssize_t filled, const double[::1] out, const double[::1] raw, const double[::1] confidence,
    Py_ssize_t start, Py_ssize_t stop, double level_out, double level_raw
)


@cython.locals(
    line=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, span=Py_ssize_t, old=Py_ssize_t, total=double, value=double, largest=double
)
cdef object _fill_row(
    double[:, ::1] row, float[:, ::1] kept, const float[:, ::1] block, Py_ssize_t size, Py_ssize_t factor, Py_ssize_t missing
)
