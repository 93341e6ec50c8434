// Package fakecloud is an OpenStack cloud in one process: Keystone v3, Cinder v3 and Nova v2.1
// behind one HTTP server on the loopback interface. Tests of a client begin with
//
//	cloud := fakecloud.Start(t, fakecloud.Options{})
//	path, err := cloud.WriteCloudsYAML(t.TempDir()) // for the client
//
// The cloud behaves like the real services: sizes change, work ends after the answer, and
// microversions decide what a request may ask for. A test can read and change the state of the
// cloud (Volume, AddVolume, GuestSize, …), inject faults (On), set latencies (SetLatency) and read
// what the client has sent (Requests, Count).
//
// The wire format, the texts of errors and the order of checks are those of Cinder 21.3 (Zed), Nova
// 26.2 and Keystone 22.0. A comparison in this package sends the same requests to the fake and to a
// real cloud, or compares the fake with recorded answers of a real cloud.
package fakecloud
