cimport cython

from ppgstream.core.statistics cimport Recent


cdef class Judge:
    cdef public double _before, _entry, _last, _run_value
    cdef public Py_ssize_t _far_run, _held, _lead_off, _max_fill, _missed, _start_length
    cdef public bint _back, _far, _long, _touching
    cdef public tuple _slow_runs
    cdef public list _given, _pending, _start
    cdef public frozenset _sentinels
    cdef public Recent _recent

    @cython.locals(left=Py_ssize_t, taken=Py_ssize_t)
    cdef object _feed(self, x, list out)

    @cython.locals(
        xs="const double[::1]", at=Py_ssize_t, start=Py_ssize_t, n=Py_ssize_t, v=double, low=double, high=double, last=double,
        before=double, entry=double, far=bint, touching=bint, doubt=bint, some=bint
    )
    cdef tuple _look(self, x, list out)

    cdef object _give(self, x, int state)

    cdef object _put_together(self, list out)
