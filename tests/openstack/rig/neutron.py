"""Answers the requests that Nova sends to Neutron for servers without networks.

Usage: neutron.py PORT
"""

import http.server
import json
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0].strip("/").split("/")
        if len(path) < 2:
            link = {"rel": "self", "href": f"http://127.0.0.1:{PORT}/v2.0/"}
            answer = {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}
        elif path[1] == "quotas":
            answer = {"quota": {}}
        else:  # an empty list of the requested objects
            answer = {path[1].removesuffix(".json").replace("-", "_"): []}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PORT = int(sys.argv[1])
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
