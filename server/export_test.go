package server

import (
	"google.golang.org/grpc"

	"github.com/keybroker/keybroker/internal/access"
)

// Verbs is what each method takes, for the tests that hold it against what is served.
var Verbs = verbs

// Methods lists what each listener serves, by full name.
func (s *Server) Methods() (main, admin []string) {
	list := func(all map[string]grpc.ServiceInfo) (names []string) {
		for service, info := range all {
			for _, m := range info.Methods {
				names = append(names, "/"+service+"/"+m.Name)
			}
		}
		return names
	}
	return list(s.main.GetServiceInfo()), list(s.admin.GetServiceInfo())
}

// Public is the verb of methods for everybody.
const Public access.Verb = public
