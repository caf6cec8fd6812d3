cimport cython
cimport libc.math as math


@cython.locals(m=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, height=double, height_in=double)
cdef object _to_one_height(double[:, ::1] out, double[:, ::1] raw)

@cython.locals(
    row=Py_ssize_t, k=Py_ssize_t, near=double, far=double, mass=double, rival=double, rival_in=double, off=double
)
cdef object _near_and_other(
    const double[::1] rates, const double[::1] rate, const double[:, ::1] belief, const double[:, ::1] out,
    const double[:, ::1] raw, double[:, ::1] found
)

@cython.locals(
    m=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t, near=double, share=double, rival=double, ratio=double, power=double,
    residual=double, lowest=double
)
cdef object _of_waves(
    const double[::1] rates, const double[::1] rate, const double[:, ::1] out, const double[:, ::1] raw,
    const double[:, ::1] confidence, const double[:, ::1] powers, double[:, ::1] found
)

@cython.locals(n=Py_ssize_t, k=Py_ssize_t, mean=double, power=double, cubes=double, slope=double)
cdef double _skew(const double[::1] x)
