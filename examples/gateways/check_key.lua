-- Verifies the key of a request with the service basicauth_mw.forward_auth.
-- haproxy.cfg loads this file, with the URL of the service.

local url = ...
local timeout_ms = 3000

-- The service gets these headers of the request, and the address and scheme of the client.
local forwarded = {"authorization", "x-api-key", "x-request-id"}

-- The client gets the status, the body and these headers of a refusal.
local returned = {"www-authenticate", "content-type", "cache-control", "retry-after",
                  "x-content-type-options", "x-request-id"}

core.register_action("check_key", {"http-req"}, function(txn)
    local received = txn.http:req_get_headers()
    local is_tls = txn.f:ssl_fc()  -- a boolean since HAProxy 3.1, before that 0 or 1, both of which are true
    local headers = {
        ["x-forwarded-for"] = {txn.sf:src()},
        ["x-forwarded-proto"] = {(is_tls == true or is_tls == 1) and "https" or "http"},
    }
    for _, name in ipairs(forwarded) do
        if received[name] then
            headers[name] = {}
            for index = 0, #received[name] do  -- the first index is 0; a repeated header stays repeated
                table.insert(headers[name], received[name][index])
            end
        end
    end

    local response = core.httpclient():get{url = url, headers = headers, timeout = timeout_ms}
    if response.status == 200 then
        txn:set_var("txn.client_id", response.headers["x-auth-client-id"][0])
        txn:set_var("txn.scopes", response.headers["x-auth-scopes"][0])
        return
    end

    -- Any other status below 400 is not from a key check: fail closed.
    local reply = txn:reply{status = response.status >= 400 and response.status or 503}
    for _, name in ipairs(returned) do
        for index = 0, #(response.headers[name] or {}) do
            if response.headers[name] then
                reply:add_header(name, response.headers[name][index])
            end
        end
    end
    reply:set_body(response.body or "")
    txn:done(reply)
end, 0)
