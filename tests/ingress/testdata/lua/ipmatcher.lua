local ipmatcher = require("resty.ipmatcher")

local function matches(networks, address, want)
  local matcher = assert(ipmatcher.new(networks))
  local got, err = matcher:match(address)
  assert(not err, err)
  assert(got == want, address .. " in " .. table.concat(networks, " ") .. ": " .. tostring(got))
end

for _, t in ipairs({
  { "10.0.0.0/8", "10.255.255.255", true },
  { "10.0.0.0/8", "11.0.0.0", false },
  { "10.1.2.3/8", "10.9.9.9", true }, -- host bits are ignored
  { "192.0.2.1", "192.0.2.1", true },
  { "192.0.2.1", "192.0.2.2", false },
  { "192.0.2.128/25", "192.0.2.127", false },
  { "192.0.2.128/25", "192.0.2.128", true },
  { "192.0.2.0/31", "192.0.2.1", true },
  { "192.0.2.0/31", "192.0.2.2", false },
  { "192.0.2.1/32", "192.0.2.1", true },
  { "0.0.0.0/0", "255.255.255.255", true },
  { "0.0.0.0/0", "2001:db8::1", false },
  { "2001:db8::/32", "2001:db8:ffff::1", true },
  { "2001:db8::/32", "2001:db9::", false },
  { "2001:db8::/33", "2001:db8:7fff::", true },
  { "2001:db8::/33", "2001:db8:8000::", false },
  { "2001:DB8::1", "2001:0db8:0:0:0:0:0:1", true },
  { "fe80::/10", "febf::1", true },
  { "fe80::/10", "fec0::1", false },
  { "::/0", "2001:db8::1", true },
  { "::/0", "10.0.0.1", false },
  { "::1/128", "::1", true },
  { "::1/128", "::2", false },
  { "2001:db8::10.0.0.1", "2001:db8::a00:1", true },
  { "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0", true },
  { "10.0.0.0/8", "::ffff:10.1.1.1", true }, -- IPv4 in IPv6 is IPv4
  { "10.0.0.0/8", "::ffff:11.1.1.1", false },
  { "::ffff:10.0.0.0/104", "10.1.1.1", true },
}) do
  matches({ t[1] }, t[2], t[3])
end

matches({}, "10.0.0.1", false)
matches({ "10.0.0.0/24", "10.1.0.0/16", "10.2.0.1", "fd00::/8" }, "10.1.200.1", true)
matches({ "10.0.0.0/24", "10.1.0.0/16", "10.2.0.1", "fd00::/8" }, "fd12::1", true)
matches({ "10.0.0.0/24", "10.1.0.0/16", "10.2.0.1", "fd00::/8" }, "10.2.0.2", false)

for _, bad in ipairs({
  "", "x", "10.0.0", "10.0.0.0.0", "10.0.0.256", "10.0.0.01", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "/8", "10.0.0.0/-1",
  ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1/129", "12345::", "g::", ":1::", "1:",
  "::1.2.3", "1.2.3.4::", "::1.2.3.4:1", "fe80::1%eth0",
}) do
  local matcher, err = ipmatcher.new({ "10.0.0.0/8", bad })
  assert(not matcher and err, "network " .. bad .. " was accepted")
  if not bad:find("/", 1, true) then
    local ok
    ok, err = assert(ipmatcher.new({ "::/0", "0.0.0.0/0" })):match(bad)
    assert(ok == nil and err, "address " .. bad .. " was accepted")
  end
end
local ok, err = assert(ipmatcher.new({ "::/0" })):match(nil)
assert(ok == nil and err)
