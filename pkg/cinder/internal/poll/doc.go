// Package poll waits for Cinder, which does most of its work after it has answered.
//
// A Poller waits for volumes: all waits for the volumes of one cloud share its requests.
// A Group holds the pollers of all clouds. AwaitSnapshot and Until wait for snapshots and backups,
// of which a cloud has few. WithAnswerMargin and ShareOf divide
// the time of a call between its waits and its answer.
//
// The package reads; it decides nothing. Its callers say which state ends their wait, and
// judge what they get. It takes the types of Cinder's objects from package cloud, but reads
// them through the interfaces Reader and SnapshotReader only.
package poll
