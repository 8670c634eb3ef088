{
  "targets": [
    {
      "target_name": "passfd",
      "sources": [
        "addon.c", "message_addon.c", "socket_addon.c", "descriptor_addon.c", "poll.c", "will_addon.c", "closer_addon.c",
        "board_addon.c",
        "passfd.c", "sockets.c", "descriptors.c", "describe.c", "closer.c", "hold.c", "board.c",
        "will.c", "will_process.c", "will_execute.c"
      ],
      "defines": ["NAPI_VERSION=8", "_GNU_SOURCE"],
      "cflags": ["-std=c11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration", "-fvisibility=hidden", "-pthread"],
      "ldflags": ["-pthread"],
      "xcode_settings": {
        "OTHER_CFLAGS": ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"],
        "MACOSX_DEPLOYMENT_TARGET": "11.0"
      }
    }
  ]
}
