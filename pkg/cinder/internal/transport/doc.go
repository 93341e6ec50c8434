// Package transport carries the requests of package cloud to OpenStack: over pooled connections,
// with a timeout for each attempt, with retries where a repetition is safe, with metrics, and with
// a debug log that holds no secret (neither bodies nor headers, except the id that OpenStack gives
// to each request).
//
// NewPool makes the connections to one cloud, and New the http.RoundTripper over them. WithCall
// says what the requests of a context are for.
package transport
