cimport cython


cdef class Recent:
    cdef public double _fs, _reference
    cdef public Py_ssize_t _early_length, _kept, _length, _there, grid, judged
    cdef public bint early, idle
    cdef public object _history, beside, statistics

    @cython.locals(n=Py_ssize_t, there=Py_ssize_t)
    cpdef object add(self, x)

    cpdef bint count(self, Py_ssize_t n)

    cpdef object update(self)


@cython.locals(
    n=Py_ssize_t, k=Py_ssize_t, run=Py_ssize_t, count=Py_ssize_t, below=Py_ssize_t, usual=Py_ssize_t, total="long long",
    step=double, most=double, least=double, low=double, high=double, range_=double, multiple=double, continuous=bint
)
cdef object _statistics(const double[::1] x, const double[::1] ordered, long long[::1] runs)
