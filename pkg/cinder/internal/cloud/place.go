package cloud

// ProjectKey identifies the project of this cloud: two names in the configuration
// whose clouds have one place show the same volumes. It is "" while there is no
// connection.
func (c *Cloud) ProjectKey() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return ""
	}
	return c.conn.endpoints[blockStorage].url + " " + c.conn.project
}
