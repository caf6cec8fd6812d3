cimport cython


cdef class ArrivalClock:
    cdef public double _before, _least, _since

    @cython.locals(offset=double)
    cpdef double arrived(self, double sent_s, double now)


cdef class RateClock:
    cdef public double _fs, _last_arrival_s, _told, stepped_s
    cdef public object _finder, _from, _last, _looked_at, _origin, measured
    cdef public tuple _arrived
    cdef public bint _wrong

    @cython.locals(elapsed=double, fs=double, off=double)
    cpdef object by_its_clock(self, chunk)
