//go:build linux

package ingress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What runs a test file: an error in it is the answer.
const luaConfig = `
load_module /etc/nginx/modules/ndk_http_module.so;
load_module /etc/nginx/modules/ngx_http_lua_module.so;
load_module /etc/nginx/modules/ngx_http_headers_more_filter_module.so;
load_module /etc/nginx/modules/ngx_http_set_misc_module.so;
load_module /etc/nginx/modules/ngx_http_geoip2_module.so;
load_module /etc/nginx/modules/ngx_http_brotli_filter_module.so;
load_module /etc/nginx/modules/ngx_http_brotli_static_module.so;
daemon off;
error_log stderr warn;
pid /tmp/nginx/lua.pid;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/nginx/body;
    proxy_temp_path /tmp/nginx/proxy;
    fastcgi_temp_path /tmp/nginx/fastcgi;
    scgi_temp_path /tmp/nginx/scgi;
    uwsgi_temp_path /tmp/nginx/uwsgi;
    lua_shared_dict locks 1m;
    lua_ssl_trusted_certificate /etc/nginx/ca.pem;
    lua_ssl_verify_depth 3;
    lua_socket_log_errors off;
    server {
        listen 127.0.0.1:8080;
        location ~ ^/([a-z_]+)$ {
            content_by_lua_block {
                local run = assert(loadfile("/etc/nginx/test/" .. ngx.var[1] .. ".lua"))
                local ok, err = xpcall(run, debug.traceback)
                if not ok then
                    ngx.status = 500
                end
                ngx.say(ok and "ok" or err)
            }
        }
    }
}
`

// TestLua runs each file of testdata/lua in the image's nginx.
func TestLua(t *testing.T) {
	if !inside(t) {
		return
	}
	c := newContainer(t)
	files, err := filepath.Glob("testdata/lua/*.lua")
	if err != nil || len(files) < 7 {
		t.Fatalf("found %d test files: %v", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		c.write("etc/nginx/test/"+filepath.Base(f), string(data))
	}
	ca := newAuthority(t)
	c.write("etc/nginx/ca.pem", string(ca.pem))
	c.write("etc/nginx/test.conf", luaConfig)
	memcached(t, "127.0.0.1:11211")
	answers(t, listen(t, "127.0.0.1:8081"))
	pair := ca.pair("tls.example")
	answers(t, tls.NewListener(listen(t, "127.0.0.1:8443"), &tls.Config{Certificates: []tls.Certificate{pair}}))
	nginx := start(t, "nginx", c.command(nil, "/usr/sbin/nginx", "-c", "/etc/nginx/test.conf"))
	nginx.until(t, "nginx listens", 10*time.Second, func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:8080")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	client := http.Client{Timeout: 30 * time.Second}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".lua")
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:8080/"+name, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Cookie", "size=2; colour=blue")
			r, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != http.StatusOK || string(body) != "ok\n" {
				t.Errorf("%s %v\n%s", r.Status, err, body)
			}
		})
	}
}

// answers serves HTTP by hand, well and badly: what resty.http is tested with.
func answers(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				// What a client that hung up missed is its own affair.
				_, _ = io.WriteString(c, answer(r))
				if r.URL.Path == "/slow" {
					time.Sleep(2 * time.Second)
				}
			}()
		}
	}()
}

func answer(r *http.Request) string {
	const ok = "HTTP/1.1 200 OK\r\n"
	switch r.URL.Path {
	case "/echo":
		body, _ := io.ReadAll(r.Body)
		text := fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("Content-Type"), body)
		head := fmt.Sprintf("HTTP/1.1 100 Continue\r\n\r\n%sX-Test: yes\r\nContent-Length: %d\r\n\r\n", ok, len(text))
		if r.Method == http.MethodHead {
			return head
		}
		return head + text
	case "/status":
		return "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n"
	case "/chunked":
		return ok + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("3e8;x=y\r\n"+strings.Repeat("0123456789", 100)+"\r\n", 100) + "0\r\nX-Trailer: 1\r\n\r\n"
	case "/empty":
		return "HTTP/1.1 204 No Content\r\n\r\n"
	case "/until-closed":
		return ok + "\r\nuntil closed"
	case "/too-long":
		return ok + "Content-Length: 99999999\r\n\r\nx"
	case "/cut-short":
		return ok + "Content-Length: 10\r\n\r\nx"
	case "/not-http":
		return "SSH-2.0-x\r\n"
	case "/slow":
		return ok + "Content-Length: 10\r\n\r\n"
	case "/endless-headers":
		return ok + strings.Repeat("X: y\r\n", 1000)
	case "/bad-chunk":
		return ok + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
	}
	return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
}
