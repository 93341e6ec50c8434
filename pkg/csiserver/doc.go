// Package csiserver serves CSI services on a socket: it listens, logs,
// measures, recovers from panics, turns kinds of error into gRPC codes, and
// stops gracefully. It knows no service beyond Identity and no backend.
//
// A plugin's main fills in a Program and exits with what its Run returns; the
// Program's Serve makes the services and ends with
//
//	options := flags.Options()
//	options.Log, options.Identity, options.Node = log, identity, nodeServer
//	options.Stopping = stopWatching    // what the plugin does beside its calls
//	return csiserver.Run(ctx, options) // after ctx is done and the running calls ended
//
// Handlers return errors of package volume (or a gRPC status, which passes
// unchanged) and log with the ...Context functions of slog: the request id
// that the call's context carries is added to each record.
package csiserver
