// What is done with the elements of a reduction.
//
// Constants: KIND  0 sum, 1 maximum, 2 minimum

constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

// The result of no element.
constexpr float NOTHING = KIND == 0 ? 0.0f : KIND == 1 ? -INFINITE : INFINITE;

inline float fold(float x, float y) {
    if constexpr (KIND == 0) {
        return x + y;
    } else if constexpr (KIND == 1) {
        return fmaxf(x, y);
    } else {
        return fminf(x, y);
    }
}
