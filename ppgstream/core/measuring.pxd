cimport cython


cdef class RateFinder:
    cdef public double _error, _least_s, _since
    cdef public object _n, _origin, _tied
    cdef public tuple _newest, _sums

    @cython.locals(x=double, y=double, t=double, i=double, tt=double, ti=double, ii=double)
    cpdef object add(self, index, double seconds)
