//go:build ceph

package librbd

// #include <malloc.h>
import "C"

// useOneArena makes the C library take all memory from one arena. By default each of Ceph's threads
// and of those in which Go calls C gets one until there are eight for each processor, which costs
// this program 3 MB.
func useOneArena() { C.mallopt(C.M_ARENA_MAX, 1) }
