cdef class Track:
    cdef public double _fs
    cdef public object _beside, _judged, _name, _open, _polarity, _ratio, _rules, plan
    cdef public Py_ssize_t _beside_flags, _max_fill, _number, _taken_back
    cdef public bint _lead_off, _stepped, moved
    cdef public list _run, events
    cdef public dict _beside_told, segments

    cpdef tuple take(self, parts)

    cdef object _cut(self, list windows, bint close=*)

    cpdef tuple release(self, segment, by_row)
