from ppgstream.core.stream cimport Stream


cdef class Engine:
    cdef public object _waiting, crowd, denoiser, departed, departed_ledger, departed_unclean, ready, refused, rules, windows
    cdef public dict _crowds, _expires, _over, failures, streams
    cdef public list _due, _expiring, events
    cdef public bint fills_itself
    cdef public long long moved

    cdef object _queue(self, Stream stream, list windows, double now, arrived_at=*, bint fill_now=*)

    cdef object _watch(self, Stream stream)

    cdef object _hear(self, Stream stream)

    cdef object _collect(self, Stream stream)
