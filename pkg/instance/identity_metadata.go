package instance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// maxMetadataSize bounds meta_data.json in bytes. The file holds whatever the server's owner put in
// it.
const maxMetadataSize = 4 << 20

// metadataPath is where meta_data.json is, on the config drive and on the metadata service (Nova's
// user documentation, "Metadata").
const metadataPath = "openstack/latest/meta_data.json"

// parseMetadata reads the identity from meta_data.json.
func parseMetadata(data []byte) (facts, error) {
	var m struct {
		UUID string `json:"uuid"`
		Zone string `json:"availability_zone"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return facts{}, fmt.Errorf("cannot parse meta_data.json: %w", err)
	}
	id := strings.ToLower(strings.TrimSpace(m.UUID))
	if !volume.IsUUID(id) {
		return facts{}, fmt.Errorf("meta_data.json has the uuid %q, which is not a UUID", m.UUID)
	}
	return facts{id: id, zone: strings.TrimSpace(m.Zone)}, nil
}

// metadataService is how this machine reaches Nova's metadata service, and how long it waits.
type metadataService struct {
	address     string          // "http://169.254.169.254"
	timeout     time.Duration   // of one attempt
	retryDelays []time.Duration // between attempts, which are one more
}

func defaultMetadataService() metadataService {
	return metadataService{
		address: "http://169.254.169.254", timeout: 5 * time.Second,
		retryDelays: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second},
	}
}

// read gets meta_data.json. It retries after errors that can be transient.
func (s metadataService) read(ctx context.Context) (facts, error) {
	client := &http.Client{
		Timeout: s.timeout,
		// The address is link-local: a proxy would answer about the proxy's machine.
		Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true},
	}
	for attempt := 0; ; attempt++ {
		data, canRetry, err := get(ctx, client, s.address+"/"+metadataPath)
		if err == nil {
			return parseMetadata(data)
		}
		if !canRetry || attempt == len(s.retryDelays) {
			return facts{}, fmt.Errorf("%w (attempts: %d)", err, attempt+1)
		}
		if err := operation.Sleep(ctx, s.retryDelays[attempt]); err != nil {
			return facts{}, err
		}
	}
}

// get reads the document at url. canRetry reports whether the error can be transient: there was no
// complete answer, or its status was 429 or 5xx.
func get(ctx context.Context, client *http.Client, url string) (data []byte, canRetry bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		canRetry = resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests
		return nil, canRetry, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxMetadataSize+1))
	if err == nil && len(data) > maxMetadataSize {
		return nil, false, fmt.Errorf("meta_data.json is longer than %d bytes", maxMetadataSize)
	}
	return data, true, err
}
