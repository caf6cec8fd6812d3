cimport cython
cimport libc.math as math


@cython.locals(k=Py_ssize_t, below=double, scale=double)
cdef object _normal_cdf(double[::1] values, double mean)
