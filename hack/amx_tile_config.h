/* Included before every file of llama.cpp by hack/native-wheel.
 *
 * GCC before 14, 13.3 and 12.4 tells its optimiser that _tile_loadconfig reads 8 bytes of the 64 that ldtilecfg reads
 * (GCC's bug 114098). The other stores are then dropped as dead, no tile has a row, and the first tileloadd is an
 * illegal instruction: the crash of llama.cpp's native builds on CPUs with AMX.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%0" : : "m"(*(const char(*)[64])(config)))
#endif
