-- Modules that Debian has under other names.
local cookie = assert(require("resty.cookie"):new())
assert(cookie:get("colour") == "blue")
local resolver = assert(require("resty.dns.resolver"):new({ nameservers = { "127.0.0.1" } }))
assert(resolver.query and require("resty.dns.resolver").TYPE_AAAA == 28)
for _, name in ipairs({ "resty.core", "resty.lrucache", "ngx.ssl", "ngx.ocsp", "ngx.balancer", "ngx.re", "cjson.safe", "table.new" }) do
  require(name)
end
