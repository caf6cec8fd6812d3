from ppgstream.core.segments cimport Segment


cdef class Samples:
    cdef public object base, flags, raw, states, values


cdef class Answers:
    cdef public object bare, base, confidence, flags, raw, values


cdef class ResampledSegment:
    cdef public double _answers_level, _level
    cdef public object _known, _reads, _writes, plan, polarity, ratio, released, start, stop
    cdef public Py_ssize_t number
    cdef public int _first_flags
    cdef public bint closed
    cdef public list _fresh
    cdef public Answers _answers
    cdef public Samples _samples
    cdef public Segment inner

    cpdef object append(self, x, state=*, int flags=*)

    cdef object _merge(self)

    cdef object _resample(self, stop)

    cdef object _forget(self)

    cpdef object release(self, by_row=*)
