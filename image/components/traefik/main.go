// SPDX-License-Identifier: Apache-2.0

// Traefik as a service of the node: Ingress and Gateway API out of Kubernetes, and nothing that needs another file, a
// dashboard or a connection to anybody else.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/config/runtime"
	"github.com/traefik/traefik/v3/pkg/config/static"
	"github.com/traefik/traefik/v3/pkg/observability/metrics"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
	"github.com/traefik/traefik/v3/pkg/ping"
	"github.com/traefik/traefik/v3/pkg/provider/aggregator"
	"github.com/traefik/traefik/v3/pkg/provider/kubernetes/gateway"
	"github.com/traefik/traefik/v3/pkg/provider/kubernetes/ingress"
	"github.com/traefik/traefik/v3/pkg/provider/traefik"
	"github.com/traefik/traefik/v3/pkg/proxy/httputil"
	"github.com/traefik/traefik/v3/pkg/safe"
	"github.com/traefik/traefik/v3/pkg/server"
	"github.com/traefik/traefik/v3/pkg/server/middleware"
	"github.com/traefik/traefik/v3/pkg/server/service"
	"github.com/traefik/traefik/v3/pkg/tcp"
	traefiktls "github.com/traefik/traefik/v3/pkg/tls"
)

// Names of entry points, the first two as users of Traefik know them.
const (
	plain     = "web"
	encrypted = "websecure"
	health    = static.DefaultInternalEntryPointName
)

// What Traefik's own command has where nothing is said. Without them two connections to a server are kept, all others
// are made anew for each request, and a server of TCP may be waited for without end.
const (
	idle          = 200
	dialTimeout   = ptypes.Duration(30 * time.Second)
	dialKeepAlive = ptypes.Duration(15 * time.Second)
)

type options struct {
	http, https, health string
	ingress, gateway    bool
	class               string
	published           string
	certificate         string
	proxies             string
}

func main() {
	var given options
	flag.StringVar(&given.http, "http", ":80", "address for HTTP")
	flag.StringVar(&given.https, "https", ":443", "address for HTTPS")
	flag.StringVar(&given.health, "health", "127.0.0.1:8082", "address for /ping and /metrics")
	flag.BoolVar(&given.ingress, "ingress", false, "serve Ingresses")
	flag.BoolVar(&given.gateway, "gateway", false, "serve Gateways")
	flag.StringVar(&given.class, "ingress-class", "basalt", "name of the IngressClass to serve")
	flag.StringVar(&given.published, "published-service", "", "NAMESPACE/NAME of the Service whose addresses Ingresses and Gateways have")
	flag.StringVar(&given.certificate, "default-certificate", "", "NAMESPACE/NAME of the Secret with the certificate for all other names")
	flag.StringVar(&given.proxies, "proxy-protocol-from", "", "addresses and networks that tell by the PROXY protocol who asks, separated by commas")
	flag.Parse()
	log.Logger = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName}})
	zerolog.SetGlobalLevel(zerolog.InfoLevel)
	zerolog.DefaultContextLogger = &log.Logger
	if err := run(given); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until it is told to end.
func run(given options) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	config, err := configuration(given)
	if err != nil {
		return err
	}
	server, err := build(config, given.certificate)
	if err != nil {
		return err
	}
	config.Ping.WithContext(ctx)
	server.Start(ctx)
	defer server.Close()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	server.Wait()
	return nil
}

// configuration returns what Traefik would read from files.
func configuration(given options) (*static.Configuration, error) {
	config := &static.Configuration{
		Global:              &static.Global{},
		ServersTransport:    &static.ServersTransport{ForwardingTimeouts: &static.ForwardingTimeouts{}, MaxIdleConnsPerHost: idle},
		TCPServersTransport: &static.TCPServersTransport{DialTimeout: dialTimeout, DialKeepAlive: dialKeepAlive},
		EntryPoints: static.EntryPoints{
			plain:     entryPoint(given.http),
			encrypted: entryPoint(given.https),
			health:    entryPoint(given.health),
		},
		Ping:      &ping.Handler{},
		Metrics:   &otypes.Metrics{Prometheus: &otypes.Prometheus{}},
		Providers: &static.Providers{ProvidersThrottleDuration: ptypes.Duration(500 * time.Millisecond)},
	}
	config.ServersTransport.ForwardingTimeouts.SetDefaults()
	config.Ping.SetDefaults()
	config.Metrics.Prometheus.SetDefaults()
	config.Providers.SetDefaults()
	config.EntryPoints[encrypted].HTTP.TLS = &static.TLSConfig{}
	if given.proxies != "" {
		trusted := &static.ProxyProtocol{TrustedIPs: strings.Split(given.proxies, ",")}
		config.EntryPoints[plain].ProxyProtocol, config.EntryPoints[encrypted].ProxyProtocol = trusted, trusted
	}
	namespace, name, _ := strings.Cut(given.published, "/")
	if given.ingress {
		provider := &ingress.Provider{IngressClass: given.class, StrictPrefixMatching: true, AllowEmptyServices: true}
		if name != "" {
			provider.IngressEndpoint = &ingress.EndpointIngress{PublishedService: given.published}
		}
		config.Providers.KubernetesIngress = provider
	}
	if given.gateway {
		provider := &gateway.Provider{}
		provider.SetDefaults()
		if name != "" {
			provider.StatusAddress = &gateway.StatusAddress{Service: gateway.ServiceRef{Namespace: namespace, Name: name}}
		}
		config.Providers.KubernetesGateway = provider
	}
	config.SetEffectiveConfiguration()
	return config, config.ValidateConfiguration()
}

func entryPoint(address string) *static.EntryPoint {
	point := &static.EntryPoint{Address: address}
	point.SetDefaults()
	return point
}

// build puts Traefik's parts together.
func build(config *static.Configuration, certificate string) (*server.Server, error) {
	pool := safe.NewPool(context.Background())
	providers := aggregator.NewProviderAggregator(*config.Providers)
	if err := providers.AddProvider(traefik.New(*config)); err != nil {
		return nil, err
	}
	if namespace, name, found := strings.Cut(certificate, "/"); found {
		if err := providers.AddProvider(&defaultCertificate{namespace, name}); err != nil {
			return nil, err
		}
	}
	certificates := traefiktls.NewManager(nil)
	pool.GoCtx(certificates.Run)
	registry := metrics.NewMultiRegistry([]metrics.Registry{metrics.RegisterPrometheus(context.Background(), config.Metrics.Prometheus)})
	observability := middleware.NewObservabilityMgr(*config, registry, nil, nil, nil, nil)
	streams, err := server.NewTCPEntryPoints(config.EntryPoints, nil, registry)
	if err != nil {
		return nil, err
	}
	datagrams, err := server.NewUDPEntryPoints(config.EntryPoints)
	if err != nil {
		return nil, err
	}
	transports := service.NewTransportManager(nil)
	proxies := httputil.NewProxyBuilder(transports, nil)
	dialers := tcp.NewDialerManager(nil)
	managers := service.NewManagerFactory(*config, pool, observability, transports, proxies, nil, certificates)
	routers, err := server.NewRouterFactory(*config, managers, certificates, observability, nil, dialers)
	if err != nil {
		return nil, err
	}
	watcher := server.NewConfigurationWatcher(pool, providers, []string{plain, encrypted}, "internal", true)
	watcher.AddListener(func(conf dynamic.Configuration) {
		certificates.UpdateConfigs(context.Background(), conf.TLS.Stores, conf.TLS.Options, conf.TLS.Certificates)
	})
	watcher.AddListener(func(conf dynamic.Configuration) {
		transports.Update(conf.HTTP.ServersTransports)
		proxies.Update(conf.HTTP.ServersTransports)
		dialers.Update(conf.TCP.ServersTransports)
	})
	watcher.AddListener(func(conf dynamic.Configuration) {
		byStream, byDatagram := routers.CreateRouters(runtime.NewConfig(conf))
		streams.Switch(byStream)
		datagrams.Switch(byDatagram)
	})
	return server.NewServer(pool, streams, datagrams, watcher, observability), nil
}
