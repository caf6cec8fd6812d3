from ppgstream.core.sequence cimport Sequencer


cdef class Remembered:
    cdef public object birth, first
    cdef public Sequencer sequencer


cdef class Sessions:
    cdef public double batch_s, fed_at, seen_at
    cdef public object current, generation, retired, unclean
    cdef public dict known
    cdef public tuple renamed
