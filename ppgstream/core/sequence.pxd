cdef class Gaps:
    cdef public list _highs, _lows


cdef class Sequencer:
    cdef public double hold_s
    cdef public object accepted, duplicates, first, gap, next, rejected
    cdef public Py_ssize_t _marks, held, hold
    cdef public bint ended
    cdef public list _held
    cdef public Gaps _gaps

    cpdef list feed(self, index, samples, double now)


cdef class Counter:
    cdef public object _last, _seen
    cdef public list _waiting
    cdef public Py_ssize_t _seen_at, _steps
    cdef public bint counts_messages, restarted

    cpdef list feed(self, index, samples, Sequencer sequencer)
