package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// maxMetadata bounds meta_data.json, which holds whatever its owner put in it.
const maxMetadata = 4 << 20

// metadataPath is where meta_data.json is, on the config drive and on the
// metadata service (Nova's user documentation, "Metadata").
const metadataPath = "openstack/latest/meta_data.json"

// parseMetadata reads meta_data.json.
func parseMetadata(data []byte) (facts, error) {
	var m struct {
		UUID string `json:"uuid"`
		Zone string `json:"availability_zone"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return facts{}, fmt.Errorf("read meta_data.json: %w", err)
	}
	id := strings.ToLower(strings.TrimSpace(m.UUID))
	if !volume.IsUUID(id) {
		return facts{}, fmt.Errorf("meta_data.json has the uuid %q, which is none", m.UUID)
	}
	return facts{id: id, zone: strings.TrimSpace(m.Zone)}, nil
}

// metadataService is the metadata service, and how long it may take.
type metadataService struct {
	address     string // "http://169.254.169.254"
	timeout     time.Duration
	retryDelays []time.Duration // between tries
}

func defaultMetadataService() metadataService {
	return metadataService{
		address: "http://169.254.169.254", timeout: 5 * time.Second,
		retryDelays: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second},
	}
}

// read gets meta_data.json, repeating what may pass by itself.
func (s metadataService) read(ctx context.Context) (facts, error) {
	client := &http.Client{
		Timeout: s.timeout,
		// No proxy: the address is link-local, and a proxy would tell about
		// its own machine.
		Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true},
	}
	for try := 0; ; try++ {
		data, passing, err := get(ctx, client, s.address+"/"+metadataPath)
		if err == nil {
			return parseMetadata(data)
		}
		if !passing || try == len(s.retryDelays) {
			return facts{}, fmt.Errorf("%w (tried %d times)", err, try+1)
		}
		if err := operation.Sleep(ctx, s.retryDelays[try]); err != nil {
			return facts{}, err
		}
	}
}

// get reads a document. passing tells whether another try may help.
func get(ctx context.Context, client *http.Client, url string) (data []byte, passing bool, err error) {
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
		passing = resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests
		return nil, passing, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxMetadata+1))
	if err == nil && len(data) > maxMetadata {
		return nil, false, errors.New("meta_data.json is too long")
	}
	return data, true, err
}
