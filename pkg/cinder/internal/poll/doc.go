// Package poll waits for Cinder, which does most of its work after it has answered.
//
// Begin with Group.Await, which waits for a volume. The waits for the volumes of one cloud share
// the requests of one Poller. AwaitSnapshot and Until wait for snapshots and backups.
// ShareOf and WithShare divide the time of a call.
//
// The package only reads, through the interface Reader. Its callers say which state ends a wait,
// and check the object that the wait returns.
package poll
