cimport cython

from ppgstream.core.track cimport Track


cdef class Timeline:
    cdef public double _fs, _last_finite, _threshold, confidence
    cdef public object _flags, _follower, _name, _next_out, _next_out_before, _opened, _plan, _policy, _ratio
    cdef public object beats, ledger, trace
    cdef public dict _firsts
    cdef public list _anchors, _items, _wrong, due

    cpdef object put(self, items)

    cpdef list release(self, Track track, by_row)

    cdef list _publish(self, r)

    @cython.locals(some_low=bint)
    cdef list _emit(self, index, values, raw, confidence, flags, checkpoint=*, in_model=*)

    cdef list _gap_before(self, index)

    @cython.locals(passed=Py_ssize_t, most=Py_ssize_t)
    cdef object _sensor_time(self, index)


@cython.locals(k=Py_ssize_t, total=double, low=bint)
cdef tuple _told(const double[::1] confidence, double threshold, float[::1] told)
