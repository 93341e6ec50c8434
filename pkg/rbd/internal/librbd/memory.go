//go:build ceph

package librbd

// This file makes the C library take all memory from one arena. By default each of Ceph's threads
// and of those in which Go calls C gets one until there are eight for each processor, which costs
// this program 2 to 3 MB. The C library reads the setting once, when the second thread allocates:
// it is made before main, while there is one thread.

/*
#include <malloc.h>

__attribute__((constructor)) static void use_one_arena(void) { mallopt(M_ARENA_MAX, 1); }
*/
import "C"
