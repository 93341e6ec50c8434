// Package config reads how to reach clouds and who logs in: clouds.yaml with secure.yaml, as
// openstacksdk describes them, and cloud.conf, as cinder-csi-plugin reads it. Package cloud uses
// it.
//
// Files.Load reads the files once; NewWatch reads them and again when they change.
//
// Errors and warnings name file, cloud and key, and never a value, which may be a secret. For that
// reason gophercloud's openstack/config/clouds is not used: its errors quote the files. It also
// reads environment variables and other files than those that are named, and knows neither
// cloud.conf nor the endpoint overrides of clouds.yaml.
package config
