from ppgstream.core.intake cimport Intake
from ppgstream.core.timeline cimport Timeline
from ppgstream.core.track cimport Track


cdef class Stream:
    cdef public object ledger, name
    cdef public list events
    cdef public Py_ssize_t out
    cdef public Intake intake
    cdef public Timeline timeline
    cdef public Track track

    cpdef list feed(self, chunk, double now, double read_at, double listened)

    cdef list _pass_on(self, list parts)
