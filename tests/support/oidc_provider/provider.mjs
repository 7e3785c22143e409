// oidc-provider (certified, MIT) with its own development pages: any name signs in, with the groups that the settings give it.
// node provider.mjs SETTINGS.json: {issuer, port, keys, client, people}
import { readFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const provider = new Provider(settings.issuer, {
  clients: [settings.client],
  jwks: { keys: settings.keys },
  cookies: { keys: ["a secret of this test alone"] },
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  scopes: ["openid", "email", "groups"],
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true }, backchannelLogout: { enabled: true } },
  fetch: (url, { dispatcher, ...options }) => fetch(url, options), // its own refuses this machine's addresses, where the hub is
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...settings.people[id] }) }),
});
provider.on("server_error", (_, error) => console.error(error));
provider.on("backchannel.error", (_, error) => console.error("back channel:", error.message));
provider.listen(settings.port, "127.0.0.1");
