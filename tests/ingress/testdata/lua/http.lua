local http = require("resty.http")
local client = http.new()

for uri, want in pairs({
  ["http://a.example"] = { "http", "a.example", 80, "/" },
  ["HTTPS://a.example?x=1#y"] = { "https", "a.example", 443, "/?x=1" },
  ["http://a.example:8080/b/c?d"] = { "http", "a.example", 8080, "/b/c?d" },
  ["http://[2001:db8::1]:81/x"] = { "http", "[2001:db8::1]", 81, "/x" },
  ["http://[2001:db8::1]/x"] = { "http", "[2001:db8::1]", 80, "/x" },
  ["http://2001:db8::1:81/x"] = { "http", "2001:db8::1", 81, "/x" },
}) do
  local parts = assert(client:parse_uri(uri))
  for i = 1, 4 do
    assert(parts[i] == want[i], uri .. ": " .. tostring(parts[i]))
  end
end
for _, bad in ipairs({ "", "ftp://a", "http://", "http:///x", "http://a b/", "http://u@a/", "http://a/\r\nX: y", "http://a:99999/" }) do
  local parts, err = client:parse_uri(bad)
  assert(not parts and err, "accepted " .. bad)
end

-- The servers of this test: see lua_test.go.
client:set_timeout(1000, 1000, 500)
local function get(path, params)
  return client:request_uri("http://127.0.0.1:8081" .. path, params)
end

local answer = assert(get("/echo?x=1", { method = "POST", body = "a body", headers = { Host = "other.example", ["Content-Type"] = "text/x" } }))
assert(answer.status == 200, answer.status)
assert(answer.body == "POST /echo?x=1 other.example text/x a body", answer.body)
assert(answer.headers["x-test"] == "yes")
assert(assert(get("/status")).status == 418)
assert(assert(get("/chunked")).body == ("0123456789"):rep(10000))
assert(assert(get("/empty")).body == "")
assert(assert(get("/until-closed")).body == "until closed")
assert(assert(get("/echo", { method = "HEAD" })).body == "")

for _, path in ipairs({ "/too-long", "/cut-short", "/not-http", "/slow", "/endless-headers", "/bad-chunk" }) do
  local got, err = get(path)
  assert(not got and err, path .. " gave an answer")
end
local got, err = get("/echo", { headers = { ["X-Split"] = "a\r\nb: c" } })
assert(not got and err:find("X-Split", 1, true), err)
got, err = client:request_uri("http://127.0.0.1:1/")
assert(not got and err:find("127.0.0.1 port 1", 1, true), err)

-- TLS: trusted is what lua_ssl_trusted_certificate says, by the name that is asked for.
answer = assert(client:request_uri("https://127.0.0.1:8443/echo", { ssl_server_name = "tls.example" }))
assert(answer.status == 200)
got, err = client:request_uri("https://127.0.0.1:8443/echo", { ssl_server_name = "other.example" })
assert(not got and err, "another name's certificate was accepted")
