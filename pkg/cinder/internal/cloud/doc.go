// Package cloud is the client of OpenStack's block storage and compute services for package
// cinder: one method for one call of one API of Cinder or Nova, with renewed logins, microversions
// and safe retries inside. The requests are made by gophercloud's resource packages, over package
// transport; where the clouds are and who logs in is read by package config.
//
// Begin with Open, which reads the files; Clouds.Cloud then returns a Cloud, which has the calls.
//
// All errors are *volume.Error. Their kind follows from the answer by one table (rules.go); their
// text has what was asked, what the cloud said and the request id. An answer that is not certainly
// one of the service to the request (another object, a page of a proxy, the 404 of another server)
// is of kind Unavailable.
//
// The package knows nothing of CSI and decides nothing: what an answer means for a volume is up to
// the caller.
package cloud
