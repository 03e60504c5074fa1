package certs

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/keybroker/keybroker/internal/access"
)

// order is a certificate that is to be made.
type order struct {
	kind Kind
	name string // of the files, without ending
	dns  []string
	ips  []net.IP
	uri  *url.URL
}

func dnsName(name string) error {
	if !access.IsDNSName(strings.ToLower(name)) {
		return fmt.Errorf("%w: %q: a DNS name is made of letters, digits and hyphens, 253 at most, with dots between; no wildcards", ErrName, name)
	}
	return nil
}

const spiffeScheme = "spiffe://"

// spiffeID checks one and gives its last segment.
func spiffeID(text string) (id *url.URL, last string, err error) {
	if !access.IsSPIFFE(text) {
		return nil, "", fmt.Errorf("%w: %q: a SPIFFE id is spiffe://trust-domain/path: the domain in lower case, the path one segment or more of "+
			"letters, digits, dots, hyphens and underscores", ErrName, text)
	}
	if id, err = url.Parse(text); err != nil {
		return nil, "", fmt.Errorf("%w: %q: it does not parse as a URI", ErrName, text)
	}
	return id, path.Base(text), nil
}

// identity turns a client's identity into a certificate to be made. It is named for the last part, without dots and hyphens in
// front: the one hides a file, the other makes it a flag.
func identity(text string) (*order, error) {
	o := &order{kind: KindClient}
	if !strings.HasPrefix(text, spiffeScheme) {
		if _, err := netip.ParseAddr(text); err == nil {
			return nil, fmt.Errorf("%w: %q: a client's identity is a SPIFFE id or a DNS name, not an address", ErrName, text)
		}
		o.name, o.dns = text, []string{text}
		return o, dnsName(text)
	}
	id, last, err := spiffeID(text)
	if err != nil {
		return nil, err
	}
	o.uri = id
	if o.name = strings.TrimLeft(last, ".-"); o.name == "" {
		return nil, fmt.Errorf("%w: %q: its last part gives no file name", ErrName, text)
	}
	return o, nil
}

// server turns hosts into the certificate of a server.
func server(hosts []string) (*order, error) {
	o := &order{kind: KindServer, name: "server"}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil && ip.Zone() == "" {
			o.ips = append(o.ips, ip.AsSlice())
			continue
		}
		if err := dnsName(h); err != nil {
			return nil, err
		}
		o.dns = append(o.dns, h)
	}
	return o, nil
}

// orders checks everything that is asked for before anything is made.
func orders(hosts, clients []string) (list []*order, err error) {
	first, err := server(hosts)
	if err != nil {
		return nil, err
	}
	list = []*order{first}
	taken := map[string]string{"ca": "the CA", "server": "the server"} // in lower case: not every file system tells it apart
	for _, c := range clients {
		o, err := identity(c)
		if err != nil {
			return nil, err
		}
		if who, ok := taken[strings.ToLower(o.name)]; ok {
			return nil, fmt.Errorf("%w: %q: its files would be named %s.crt and .key, as those of %s are; use another directory for one of them",
				ErrName, c, o.name, who)
		}
		taken[strings.ToLower(o.name)] = c
		list = append(list, o)
	}
	return list, nil
}
