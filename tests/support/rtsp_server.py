"""An RTSP camera of GStreamer, run by the system's Python: `rtsp_server.py PORT NAME PASSWORD`. A red square on grey, in H.264."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = (
    "( videotestsrc is-live=true pattern=solid-color foreground-color=0xff6e6e6e ! video/x-raw,width=640,height=384,framerate=20/1 "
    "! compositor name=mix sink_1::xpos=248 sink_1::ypos=168 ! videoconvert "
    "! x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 pt=96 config-interval=1 "
    "videotestsrc is-live=true pattern=solid-color foreground-color=0xffdc321e ! video/x-raw,width=64,height=64,framerate=20/1 ! mix. )"
)

if __name__ == "__main__":
    port, name, password = sys.argv[1:]
    Gst.init(None)
    server, factory, auth = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory(), GstRtspServer.RTSPAuth()
    server.set_service(port)
    factory.set_launch(PICTURE)
    factory.set_shared(True)
    token, allowed = GstRtspServer.RTSPToken(), GstRtspServer.RTSPPermissions()
    token.set_string("media.factory.role", "viewer")
    for what in ("media.factory.access", "media.factory.construct"):
        allowed.add_permission_for_role("viewer", what, True)
    factory.set_permissions(allowed)
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()
