// Package transport carries the requests of package cloud to OpenStack: over pooled connections,
// with a timeout for each attempt, with retries where a repetition is safe, with metrics, and with
// a debug log that holds no secret (neither bodies nor headers, except the id that OpenStack gives
// to each request).
//
// Begin with NewPool, which returns the connections to one cloud, and New, which returns an
// http.RoundTripper over them. WithCall names the API call that the requests of a context belong
// to.
package transport
