// A link from another site comes without the cookie, which is SameSite=Strict: this page may ask for it.
const { target } = document.getElementById("sign-in").dataset;
const answer = await fetch("/ui/cookie", { cache: "no-store" });
if (answer.ok && (await answer.json()).kept) location.replace(target);
