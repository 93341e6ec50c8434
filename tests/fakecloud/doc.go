// Package fakecloud is an OpenStack cloud in one process: Keystone v3, Cinder
// v3 and Nova v2.1 behind one HTTP server on the loopback. It keeps state the
// way the real services do — sizes really change, work ends after the answer,
// microversions decide what is allowed — and plays faults on command, so that
// a client can be tested against what a cloud does on its worst day.
//
// The wire format, the texts of errors and the order of checks are those of
// Cinder 21.3 (Zed), Nova 26.2 and Keystone 22.0; the package's own comparison
// runs the same calls against the fake and a real cloud.
package fakecloud
