cimport cython

from ppgstream.core.clock cimport ArrivalClock, RateClock
from ppgstream.core.judge cimport Judge
from ppgstream.core.sequence cimport Counter
from ppgstream.core.session cimport Sessions


cdef class Intake:
    cdef public double _suspected, _target, arrived_at, fs
    cdef public object _expected, _known, _measuring, _name, _own_fs, _rules, ledger, units
    cdef public bint _wrong
    cdef public list events
    cdef public ArrivalClock _arrival
    cdef public Counter _counter
    cdef public Judge _judge
    cdef public RateClock rate
    cdef public Sessions sessions

    cpdef list feed(self, chunk, double now, double read_at, double listened)

    cdef object _take(self, chunk, double now, double read_at, list out)

    cdef object _take_in(self, chunk, double now, double read_at, list out)

    @cython.locals(at=Py_ssize_t, n=Py_ssize_t, stop=Py_ssize_t)
    cdef object _accept(self, list runs, list out)

    cdef object _watch_rate(self, chunk, double now, list out)


@cython.locals(k=Py_ssize_t, n=Py_ssize_t, number=bint)
cdef Py_ssize_t _alike_until(const double[::1] x, Py_ssize_t at)
