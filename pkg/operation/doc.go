// Package operation governs work on volumes: one operation at a time per volume
// (Locks), work that must not stop when its call ends (RunDetached, with the Lease
// that keeps the volume locked meanwhile and the Tracker that a program waits for
// before it exits), and waits that end with their context (WithMargin, AwaitCall,
// Sleep). It knows nothing of storage systems, devices or gRPC; every service and
// backend uses it.
package operation
