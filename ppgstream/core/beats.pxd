cimport cython


@cython.locals(
    m=Py_ssize_t, before=Py_ssize_t, lag=Py_ssize_t, apart=Py_ssize_t, after=Py_ssize_t, row=Py_ssize_t, k=Py_ssize_t,
    j=Py_ssize_t, foot=Py_ssize_t, least=double, few=double, usual=double, total=double, x="const double[::1]",
    rise="double[::1]", is_alone="unsigned char[::1]"
)
cdef object _detect(
    const double[:, ::1] rows, const long long[::1] wide, const long long[::1] narrow, double[::1] slopes,
    unsigned char[::1] upstrokes, double[:, ::1] rises, unsigned char[:, ::1] peaks, unsigned char[:, ::1] agreed,
    unsigned char[:, ::1] alone, unsigned char[:, ::1] low
)

@cython.locals(m=Py_ssize_t, k=Py_ssize_t, value=double)
cdef bint _is_highest(const double[::1] x, Py_ssize_t at, Py_ssize_t scale)

@cython.locals(first=double, second=double, third=double, fourth=double, value=double, k=Py_ssize_t)
cdef double _usual(const double[::1] values, const unsigned char[::1] which)

@cython.locals(
    first=Py_ssize_t, n=Py_ssize_t, own=Py_ssize_t, stop=Py_ssize_t, count=Py_ssize_t, k=Py_ssize_t, some=Py_ssize_t,
    others=Py_ssize_t, total=double, mean=double, floor=double, shortest=double, longest=double, squares=double, length=double,
    rises=double, rises_second=double, valleys=double, valleys_second=double, lengths=double, lengths_second=double
)
cdef object _of_rows(
    const long long[::1] row, const double[::1] time, const double[::1] rise, const double[::1] valley, double[:, ::1] found
)

@cython.locals(
    n=Py_ssize_t, m=Py_ssize_t, half=Py_ssize_t, near=Py_ssize_t, last=Py_ssize_t, way=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t,
    own=Py_ssize_t,
    centre=Py_ssize_t, place=Py_ssize_t, lowest=double, mean=double, mean_in=double, power=double, product=double,
    power_in=double, residual=double, y=double, x=double
)
cdef object _of_beats(
    const long long[::1] row, const long long[::1] at, const double[::1] time, const double[::1] rise,
    const unsigned char[::1] alone, const double[:, ::1] out, const double[:, ::1] raw, double[:, ::1] found
)

@cython.locals(
    first=Py_ssize_t, n=Py_ssize_t, own=Py_ssize_t, stop=Py_ssize_t, count=Py_ssize_t, k=Py_ssize_t, total=double,
    total_log=double, squares=double, mean=double
)
cdef object _of_intervals(
    const long long[::1] row, const unsigned char[::1] used, const double[::1] length, const double[::1] logs,
    double[:, ::1] found
)
