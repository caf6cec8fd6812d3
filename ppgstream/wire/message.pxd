cimport cython


@cython.locals(kind=int, code=int, annotated=int, unclean=int, samples=Py_ssize_t, expected=Py_ssize_t, end=Py_ssize_t, data=bint, beats=bint)
cpdef object decode(parts)

@cython.locals(n=Py_ssize_t)
cdef object _unsayable(chunk)
