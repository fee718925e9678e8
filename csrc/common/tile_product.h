// Small matrix products out of packed memory: C[rows x columns] (op)= A[rows x depth] * B[depth x columns].
// Included inside the SIMD namespaces by kernel bodies (see simd_foreach.h); no include guard on purpose.
//
// B is read in vectors, A element by element. An accumulator block of kRows x 3 vectors stays in registers; with AVX-512 it
// keeps the multiply-add units busy (8 x 48 floats: 11 loads for 24 multiply-adds). "Panels" hold kPanel<T> = 3 vectors of
// pixels side by side: [depth][kPanel]. kRows divides kPanel, so one panel serves as A and as B and nothing is packed twice.

template <class T>
constexpr int kPanel = 3 * kLanes<T>;
template <class T>
constexpr int kRows = kPanel<T> % WSSS_SIMD_ROWS == 0 ? WSSS_SIMD_ROWS : 2;

template <class T>
struct Rows {  // element (row, k) at data[row / kPanel * panel + row % kPanel * row_stride + k * depth_stride]
    const T* data;
    int64_t row_stride, depth_stride, panel;
};

template <class T>
struct Columns {  // element (k, column) at data[column / kPanel * panel + column % kPanel + k * depth_stride]
    const T* data;
    int64_t depth_stride, panel;
};

enum class Finish {
    kStore,  // C = product
    kRelu,   // C = max(product, 0), NaN kept
    kAdd,    // C += product
    kMask,   // C = product where C is not zero (NaN counts as not zero), else 0
};

// Through memcpy: as a template argument a vector type loses the attribute that lets it lie at any address.
template <Finish kFinish, class V, class T>
inline __attribute__((always_inline)) void finish(T* to, V value) {
    V before;
    if constexpr (kFinish == Finish::kAdd || kFinish == Finish::kMask) __builtin_memcpy(&before, to, sizeof(V));
    if constexpr (kFinish == Finish::kRelu) value = value <= 0 ? V{} : value;
    if constexpr (kFinish == Finish::kAdd) value += before;
    if constexpr (kFinish == Finish::kMask) value = before == 0 ? V{} : value;
    __builtin_memcpy(to, &value, sizeof(V));
}

// kHalves half vectors of columns (1..6), kRows rows.
template <class T, Finish kFinish, int kHalves>
void tile_kernel(int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t b_depth, T* c, int64_t c_row) {
    constexpr int kFull = kHalves / 2;
    constexpr bool kTail = kHalves % 2 == 1;
    static_assert(kPanel<T> % kRows<T> == 0, "a row block must not straddle two panels");
    Vec<T> sum[kRows<T>][kFull + 1] = {};
    Half<T> tail_sum[kRows<T>] = {};
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> row[kFull + 1];
        Half<T> tail = {};
#pragma GCC unroll 3
        for (int v = 0; v < kFull; ++v) row[v] = *reinterpret_cast<const Vec<T>*>(b + v * kLanes<T>);
        if constexpr (kTail) tail = *reinterpret_cast<const Half<T>*>(b + kFull * kLanes<T>);
#pragma GCC unroll 8
        for (int r = 0; r < kRows<T>; ++r) {
            const T element = a[r * a_row];
#pragma GCC unroll 3
            for (int v = 0; v < kFull; ++v) sum[r][v] += element * row[v];
            if constexpr (kTail) tail_sum[r] += element * tail;
        }
        a += a_depth;
        b += b_depth;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows<T>; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < kFull; ++v) finish<kFinish>(c + r * c_row + v * kLanes<T>, sum[r][v]);
        if constexpr (kTail) finish<kFinish>(c + r * c_row + kFull * kLanes<T>, tail_sum[r]);
    }
}

// rows is rounded up to kRows and columns to half vectors: A, B and C must be padded so far.
template <class T, Finish kFinish>
void tile_product(int64_t rows, int64_t columns, int64_t depth, Rows<T> a, Columns<T> b, T* c, int64_t c_row) {
    constexpr int kHalf = kLanes<T> / 2;
    for (int64_t column = 0; column < columns; column += kPanel<T>) {
        const T* b_panel = b.data + column / kPanel<T> * b.panel;
        const int64_t left = columns - column;
        const int halves = left >= kPanel<T> ? 6 : static_cast<int>((left + kHalf - 1) / kHalf);
        auto kernel = halves == 6   ? tile_kernel<T, kFinish, 6>
                      : halves == 5 ? tile_kernel<T, kFinish, 5>
                      : halves == 4 ? tile_kernel<T, kFinish, 4>
                      : halves == 3 ? tile_kernel<T, kFinish, 3>
                      : halves == 2 ? tile_kernel<T, kFinish, 2>
                                    : tile_kernel<T, kFinish, 1>;
        for (int64_t row = 0; row < rows; row += kRows<T>)
            kernel(depth, a.data + row / kPanel<T> * a.panel + row % kPanel<T> * a.row_stride, a.row_stride, a.depth_stride,
                   b_panel, b.depth_stride, c + row * c_row + column, c_row);
    }
}
